-- The group: who is in it, and its rebalances. KEYS: group, members, leases, ready, assigned, news.
-- ARGV: what to do, member, session ms, rebalance ms, prefix of the members' `ends`, what the act needs.
--
-- A rebalance: phase 'joining' until every member has given up what it had, the generation rises,
-- phase 'assigning' until one of them has said who gets what, then 'stable'. Members that stay silent past
-- their lease, or do not give up in time, are out.
--
-- The group has a name of its birth, which the first member gives it. Who finds another, or a generation below
-- one that it was in, knows that the server has lost what it knew (FLUSHALL, a fail-over, a deleted key).
local group, members, leases, ready, assigned, news = unpack(KEYS)
local act, member = ARGV[1], ARGV[2]
local session_ms, rebalance_ms = tonumber(ARGV[3]), tonumber(ARGV[4])
local now = now_ms()

local function tell()
  call('XADD', news, 'MAXLEN', '16', '*', 'phase', call('HGET', group, 'phase') or '')
end

local function begin()
  if call('HGET', group, 'phase') ~= 'joining' then
    call('HSET', group, 'phase', 'joining', 'until', text(now + rebalance_ms))
    tell()
  end
end

local function settle()
  local count = call('HLEN', members)
  if count > 0 and call('HGET', group, 'phase') == 'joining' and call('SCARD', ready) == count then
    call('HINCRBY', group, 'generation', 1)
    call('HSET', group, 'phase', 'assigning')
    tell()
  end
end

local function remove(gone)
  call('HDEL', members, gone)
  call('ZREM', leases, gone)
  call('SREM', ready, gone)
  call('PEXPIRE', ARGV[5] .. gone, 600000)
  begin()
end

local function expire()
  for _, gone in ipairs(call('ZRANGEBYSCORE', leases, '-inf', text(now))) do
    remove(gone)
  end
  if call('HGET', group, 'phase') == 'joining' and now > tonumber(call('HGET', group, 'until')) then
    for _, slow in ipairs(call('HKEYS', members)) do
      if call('SISMEMBER', ready, slow) == 0 then
        remove(slow)
      end
    end
  end
  settle()
end

if act == 'join' then
  -- ARGV: offer, slot, ms within which a living member of the same slot would be heard of, name for a new group
  call('HSETNX', group, 'birth', ARGV[9])
  local slots = group .. ':slots'
  local former = call('HGET', slots, ARGV[7])
  if former and former ~= member and call('HEXISTS', members, former) == 1 then
    -- Most likely our own former life: it need not be waited for as long as another's.
    call('ZADD', leases, 'LT', text(now + tonumber(ARGV[8])), former)
  end
  call('HSET', slots, ARGV[7], member)
  call('HSET', members, member, ARGV[6])
  call('ZADD', leases, text(now + session_ms), member)
  call('SADD', ready, member)
  begin()
elseif act == 'leave' then
  if call('HEXISTS', members, member) == 1 then
    remove(member)
    settle()
  end
  return { 'left' }
end

local function known()
  return call('HGET', group, 'generation') or '0', call('HGET', group, 'birth') or ''
end

if call('HEXISTS', members, member) == 0 then
  expire()
  return { 'unknown', known() }
end
call('ZADD', leases, text(now + session_ms), member)
if act == 'ready' then
  call('SADD', ready, member)
elseif act == 'offer' then
  -- ARGV: the new offer. The member gives up what it has as in any rebalance.
  call('HSET', members, member, ARGV[6])
  begin()
elseif act == 'assign' then
  -- ARGV: generation, assignment. The first one wins; all would say the same.
  if call('HGET', group, 'phase') == 'assigning' and call('HGET', group, 'generation') == ARGV[6] then
    call('SET', assigned, ARGV[7])
    call('HSET', group, 'phase', 'stable')
    call('DEL', ready)
    tell()
  end
end
expire()
local phase, generation, birth = call('HGET', group, 'phase'), known()
local answer = { phase, generation, birth, call('SISMEMBER', ready, member) }
if phase == 'assigning' then
  answer[5] = call('GET', assigned) or ''
  answer[6] = call('HGETALL', members)
elseif phase == 'stable' then
  answer[5] = call('GET', assigned)
end
return answer
