-- Trims one partition of an ordinary topic behind its slowest group. KEYS: stream. ARGV: entries at most, id
-- that must stay whatever the groups say ('' if none). Returns how many entries went.
local stream = KEYS[1]
local groups = redis.pcall('XINFO', 'GROUPS', stream)
if groups.err or #groups == 0 then
  return 0
end
local function parts(id)
  local ms, sequence = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(sequence)
end
local function least(a, b)
  if not a then return b end
  local a_ms, a_sequence = parts(a)
  local b_ms, b_sequence = parts(b)
  if b_ms < a_ms or (b_ms == a_ms and b_sequence < a_sequence) then return b end
  return a
end
local bound = ARGV[2] ~= '' and ARGV[2] or nil
for _, group in ipairs(groups) do
  local about = {}
  for i = 1, #group, 2 do
    about[group[i]] = group[i + 1]
  end
  bound = least(bound, about['last-delivered-id'])
  if about['pending'] > 0 then
    bound = least(bound, call('XPENDING', stream, about['name'])[2])
  end
end
return call('XTRIM', stream, 'MINID', '~', bound, 'LIMIT', ARGV[1])
