-- Copies the next entries of a compacted partition into its snapshot: the newest entry of each key.
-- KEYS: stream, snapshot, marks, tombstones. ARGV: entries, ms that a tombstone is kept.
-- A value of the snapshot: id, lengths of the fields' names and values, a line's end, these.
local stream, snapshot, marks, tombstones = unpack(KEYS)
local entries_max, now = tonumber(ARGV[1]), now_ms()
local copied = call('HGET', marks, 'copied')
local entries = call('XRANGE', stream, copied and ('(' .. copied) or '-', '+', 'COUNT', entries_max)
for _, entry in ipairs(entries) do
  local id, fields = entry[1], entry[2]
  local head, key, ours = { id }, nil, true
  for i = 1, #fields, 2 do
    local name = fields[i]
    head[#head + 1] = #name
    head[#head + 1] = #fields[i + 1]
    if name == 'v' then
      ours = false
    elseif name == 'k' then
      key = fields[i + 1]
    elseif name ~= 't' and name ~= 'h' then
      if name == 'key' then key = key or fields[i + 1] end
      ours = false
    end
  end
  local field = key and ('k' .. key) or ('n' .. id)
  call('HSET', snapshot, field, table.concat(head, ' ') .. '\n' .. table.concat(fields))
  if ours then
    -- No value at all: a tombstone. It stays for a while, for readers who have seen the row before.
    call('RPUSH', tombstones, id, field)
  end
end
if #entries > 0 then
  call('HSET', marks, 'copied', entries[#entries][1])
end
for _ = 1, entries_max do
  local oldest = call('LRANGE', tombstones, 0, 1)
  if #oldest < 2 or tonumber(string.match(oldest[1], '^%d+')) > now - tonumber(ARGV[2]) then
    break
  end
  call('LPOP', tombstones, 2)
  local kept = call('HGET', snapshot, oldest[2])
  if kept and sub(kept, 1, #oldest[1] + 1) == oldest[1] .. ' ' then
    call('HDEL', snapshot, oldest[2])
  end
end
return #entries
