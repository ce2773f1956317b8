-- A checkpoint, or the decision of one whose records are staged. KEYS: group, members, ends, offsets,
-- decided, staged ('' if none). ARGV: plan, head and data of the records that are not staged.
local group, members, ends, offsets, decided, staged = unpack(KEYS)
local plan = cmsgpack.unpack(ARGV[1])
local member, number = plan.member, plan.number

-- Step 1. What was decided stays so: the same request may come twice when its answer was lost.
local last = tonumber(call('HGET', ends, '#') or '0')
if last == number then
  return { 'DONE', call('HGETALL', ends) }
end

-- Step 2. The fence: this generation, and a member that it still has.
if call('HGET', group, 'generation') ~= plan.generation or call('HEXISTS', members, member) == 0 then
  return { 'FENCED', call('HGET', group, 'generation') or '0' }
end
if last ~= number - 1 then
  return { 'LOST', tostring(last) }
end
if plan.void then
  -- Nobody knows whether the request with this number will still come: from here on it has no effect.
  call('HSET', ends, '#', number)
  return { 'VOIDED' }
end

-- Step 3. Can all of it be done? Nothing has been written so far, and nothing fails from step 4 on.
-- What was decided before is to stand before it, so it has to be published first.
if call('EXISTS', decided) == 1 then
  return { 'BEHIND' }
end
for _, spot in ipairs(plan.offsets) do
  local ms, problem = stream_end(spot[2])
  if not ms then
    return redis.error_reply(problem)
  end
end
if plan.staged > 0 then
  if call('LLEN', staged) ~= plan.staged then
    return { 'UNSTAGED', tostring(call('LLEN', staged)) }
  end
  for _, stream in ipairs(plan.streams) do
    local ms, problem = stream_end(stream)
    if not ms then
      return redis.error_reply(problem)
    end
  end
end
local head, found, problem = cmsgpack.unpack(ARGV[2]), nil, nil
found, problem = places(head[1])
if not found then
  return redis.error_reply(problem)
end

-- Step 4. Decide, with a write that a full server refuses.
local before = call('HKEYS', ends)
call('HSET', ends, '#', number)
for _, stream in ipairs(before) do
  if stream ~= '#' then
    call('HDEL', ends, stream)
  end
end
if plan.staged > 0 then
  call('PERSIST', staged)
  call('RPUSH', decided, staged .. '\n' .. ends)
end
append(head, ARGV[3], found)
local written = last_ids(head[1], found)
if #written > 0 then
  call('HSET', ends, unpack(written))
end

-- Step 5. The offsets, mirrored to the stream's own group, so that XINFO GROUPS shows the true lag.
for _, spot in ipairs(plan.offsets) do
  local field, stream, offset, id, count = unpack(spot)
  call('HSET', offsets, field, offset)
  local mirror = { 'XGROUP', 'SETID', stream, plan.group, id }
  if count >= 0 then
    call('HSET', offsets, field .. ':read', text(count))
    mirror[6], mirror[7] = 'ENTRIESREAD', text(count)
  else
    call('HDEL', offsets, field .. ':read')
  end
  local answer = redis.pcall(unpack(mirror))
  if type(answer) == 'table' and answer.err then
    -- The group, or the stream with it, has been removed by hand: the offsets above are what counts.
    redis.pcall('XGROUP', 'CREATE', stream, plan.group, id, 'MKSTREAM')
  end
end

-- Step 6. The pending list: failures are put there, and taken out when they are done.
for _, failure in ipairs(plan.failures) do
  redis.pcall('XCLAIM', failure[1], plan.group, plan.consumer, 0, failure[2], 'RETRYCOUNT', failure[3],
    'FORCE', 'JUSTID')
end
for _, done in ipairs(plan.settled) do
  redis.pcall('XACK', done[1], plan.group, done[2])
end
return { 'DONE', written }
