-- Shared by all scripts. A script checks everything before its first write: an error after a write
-- would leave a part of it behind.
local call, sub = redis.call, string.sub
local SEQUENCES = 1048576

local function now_ms()
  local time = call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function text(number)
  return string.format('%.0f', number)
end

-- ms and sequence number of the stream's last id; nil and the reason for what is no stream.
local function stream_end(stream)
  local info = redis.pcall('XINFO', 'STREAM', stream)
  if info.err then
    if string.find(info.err, 'no such key', 1, true) then
      return 0, 0
    end
    return nil, 'WRONGSTREAM ' .. stream .. ': ' .. info.err
  end
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then
      local ms, sequence = string.match(info[i + 1], '^(%d+)-(%d+)$')
      return tonumber(ms), tonumber(sequence)
    end
  end
  return nil, 'WRONGSTREAM ' .. stream .. ': no last id'
end

-- Where the entries of each run go: ms and first sequence number; nil and the reason if one can't.
local function places(runs)
  local found, now = {}, now_ms()
  for i, run in ipairs(runs) do
    local ms, sequence = stream_end(run[1])
    if not ms then
      return nil, sequence
    end
    if now > ms then
      ms, sequence = now, -1
    end
    if sequence + run[2] >= SEQUENCES then
      return nil, 'SEQUENCE ' .. run[1] .. ': its last id is ' .. text(ms) .. '-' .. text(sequence)
        .. ', ahead of the clock, and more entries in that ms would pass 20 bits'
    end
    found[i] = { ms, sequence + 1 }
  end
  return found
end

-- Adds the entries. A run: stream, number of entries, whether they have t and h; lengths: v and k of
-- each (and t and h), -1 where there is none. Returns stream, ms, first sequence number of each run.
local function append(head, data, found)
  local runs, lengths, at, li, result = head[1], head[2], 1, 1, {}
  for i, run in ipairs(runs) do
    local stream, ms, first = run[1], text(found[i][1]), found[i][2]
    local prefix = ms .. '-'
    for n = 0, run[2] - 1 do
      local v, k = lengths[li], lengths[li + 1]
      if not run[3] and v >= 0 and k >= 0 then
        call('XADD', stream, prefix .. (first + n), 'v', sub(data, at, at + v - 1),
          'k', sub(data, at + v, at + v + k - 1))
        at, li = at + v + k, li + 2
      else
        local fields, names = {}, run[3] and { 'v', 'k', 't', 'h' } or { 'v', 'k' }
        for j, name in ipairs(names) do
          local length = lengths[li + j - 1]
          if length >= 0 then
            fields[#fields + 1] = name
            fields[#fields + 1] = sub(data, at, at + length - 1)
            at = at + length
          end
        end
        li = li + #names
        call('XADD', stream, prefix .. (first + n), unpack(fields))
      end
    end
    result[#result + 1] = stream
    result[#result + 1] = ms
    result[#result + 1] = first
  end
  return result
end

local function last_ids(runs, found)
  local fields = {}
  for i, run in ipairs(runs) do
    fields[#fields + 1] = run[1]
    fields[#fields + 1] = text(found[i][1]) .. '-' .. text(found[i][2] + run[2] - 1)
  end
  return fields
end
