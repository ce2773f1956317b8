import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.List;
import java.util.Properties;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.serialization.StringSerializer;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.TopologyTestDriver;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.KGroupedStream;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.SessionWindows;
import org.apache.kafka.streams.kstream.SlidingWindows;
import org.apache.kafka.streams.kstream.TimeWindows;
import org.apache.kafka.streams.state.KeyValueIterator;
import org.apache.kafka.streams.state.Stores;
import org.apache.kafka.streams.kstream.Windowed;

/**
 * What Kafka Streams itself makes of one partition: a case as a line of JSON in, its final rows as a line out.
 *
 * <p>In: {"kind", "size_ms", "step_ms", "grace_ms", "events": [[time, key], ...]}. Out: [[start, end, key,
 * count], ...], each window as [start, end), a session up to its last event + gap + 1.
 */
public final class FinalRows {
    private static final String STORE = "counts";
    private static final Duration RETENTION = Duration.ofDays(30);

    public static void main(String[] arguments) throws Exception {
        var mapper = new ObjectMapper();
        var lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            System.out.println(mapper.writeValueAsString(rows(mapper.readTree(line))));
            System.out.flush();
        }
    }

    private static List<List<Object>> rows(JsonNode task) {
        var kind = task.get("kind").asText();
        try (var driver = new TopologyTestDriver(topology(kind, task), settings(), Instant.EPOCH)) {
            var input = driver.createInputTopic("in", new StringSerializer(), new StringSerializer());
            for (var event : task.get("events")) {
                input.pipeInput(event.get(1).asText(), "", event.get(0).asLong());
            }
            var rows = new ArrayList<List<Object>>();
            if (kind.equals("session")) {
                var store = driver.<String, Long>getSessionStore(STORE);
                for (var key : List.of("a", "b", "c")) {
                    collect(store.fetch(key), rows, task.get("size_ms").asLong() + 1);
                }
            } else {
                long end = kind.equals("sliding") ? 1 : 0; // their last millisecond is within
                var store = driver.<String, Long>getWindowStore(STORE);
                collect(store.all(), rows, end);
            }
            return rows;
        }
    }

    private static void collect(KeyValueIterator<Windowed<String>, Long> all, List<List<Object>> rows, long end) {
        try (all) {
            while (all.hasNext()) {
                var row = all.next();
                var window = row.key.window();
                rows.add(List.of(window.start(), window.end() + end, row.key.key(), row.value));
            }
        }
    }

    private static Topology topology(String kind, JsonNode task) {
        var size = Duration.ofMillis(task.get("size_ms").asLong());
        var grace = Duration.ofMillis(task.get("grace_ms").asLong());
        var builder = new StreamsBuilder();
        KGroupedStream<String, String> events =
            builder.stream("in", Consumed.with(Serdes.String(), Serdes.String())).groupByKey();
        switch (kind) {
            case "tumbling" -> events.windowedBy(TimeWindows.ofSizeAndGrace(size, grace)).count(windows(size));
            case "hopping" -> events
                .windowedBy(TimeWindows.ofSizeAndGrace(size, grace)
                    .advanceBy(Duration.ofMillis(task.get("step_ms").asLong())))
                .count(windows(size));
            case "sliding" -> {
                var difference = size.minusMillis(1);
                events.windowedBy(SlidingWindows.ofTimeDifferenceAndGrace(difference, grace))
                    .count(windows(difference));
            }
            case "session" -> events
                .windowedBy(SessionWindows.ofInactivityGapAndGrace(size, grace))
                .count(Materialized.<String, Long>as(Stores.inMemorySessionStore(STORE, RETENTION))
                    .withKeySerde(Serdes.String()).withValueSerde(Serdes.Long()).withCachingDisabled());
            default -> throw new IllegalArgumentException(kind);
        }
        return builder.build();
    }

    private static Materialized<String, Long, org.apache.kafka.streams.state.WindowStore<
            org.apache.kafka.common.utils.Bytes, byte[]>> windows(Duration size) {
        return Materialized.<String, Long>as(Stores.inMemoryWindowStore(STORE, RETENTION, size, false))
            .withKeySerde(Serdes.String()).withValueSerde(Serdes.Long()).withCachingDisabled();
    }

    private static Properties settings() {
        var settings = new Properties();
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, "final-rows");
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, "none:1");
        return settings;
    }
}
