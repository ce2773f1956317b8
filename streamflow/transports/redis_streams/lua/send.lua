-- Appends records outside of any checkpoint. ARGV: head, data.
local head = cmsgpack.unpack(ARGV[1])
local found, problem = places(head[1])
if not found then
  return redis.error_reply(problem)
end
return append(head, ARGV[2], found)
