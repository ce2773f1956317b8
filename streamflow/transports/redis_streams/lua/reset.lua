-- Deletes the group, unless somebody is in it. KEYS: group, members, leases, ready, assigned, news.
-- A member that was killed is in it until its lease is over.
local group, members, leases, ready, assigned, news = unpack(KEYS)
local living = call('ZRANGEBYSCORE', leases, '(' .. text(now_ms()), '+inf')
if #living == 0 then
  call('DEL', group, members, leases, ready, assigned, news, group .. ':slots')
end
return living
