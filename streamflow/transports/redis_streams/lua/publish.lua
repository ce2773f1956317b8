-- Moves one chunk of a decided commit into its streams. Anyone may do it, as often as it takes: a chunk
-- leaves the list in the step that publishes it. KEYS: decided, staged, ends.
local decided, staged, ends = unpack(KEYS)
local entry = staged .. '\n' .. ends
if not call('LPOS', decided, entry) then
  return 0
end
local chunk = call('LRANGE', staged, 0, 1)
if #chunk == 2 then
  local head = cmsgpack.unpack(chunk[1])
  local found, problem = places(head[1])
  if not found then
    return redis.error_reply(problem)
  end
  append(head, chunk[2], found)
  call('HSET', ends, unpack(last_ids(head[1], found)))
  call('LPOP', staged, 2)
end
local left = call('LLEN', staged)
if left == 0 then
  call('LREM', decided, 1, entry)
end
return left
