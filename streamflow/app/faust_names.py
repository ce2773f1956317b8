"""Faust's own names that keep their meaning here, so that ``import streamflow as faust`` offers what
``import faust`` does. Ours take the place of App, Agent, Event, Record, Topic, the tables and the windows.
"""

from __future__ import annotations

from faust.agents import current_agent
from faust.auth import GSSAPICredentials, OAuthCredentials, SASLCredentials, SSLCredentials
from faust.channels import Channel
from faust.cli import AppCommand
from faust.cli.base import Command
from faust.models import Model, ModelOptions, maybe_model, registry
from faust.sensors import Monitor, Sensor
from faust.serializers import Codec, Schema
from faust.streams import Stream, current_event
from faust.types import ChannelT, EventT, StreamT, TopicT
from faust.utils import uuid
from mode.services import Service
from mode.types import ServiceT

from streamflow.app.faust_modules import lend

lend()

__all__ = [
    "AppCommand",
    "Channel",
    "ChannelT",
    "Codec",
    "Command",
    "EventT",
    "GSSAPICredentials",
    "Model",
    "ModelOptions",
    "Monitor",
    "OAuthCredentials",
    "SASLCredentials",
    "SSLCredentials",
    "Schema",
    "Sensor",
    "Service",
    "ServiceT",
    "Stream",
    "StreamT",
    "TopicT",
    "current_agent",
    "current_event",
    "maybe_model",
    "registry",
    "uuid",
]
