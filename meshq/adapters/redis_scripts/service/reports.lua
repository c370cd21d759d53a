-- Returns msgpack of {id, what `reports` has of it, ...}: one string, as in snapshot.lua.
local known, found = redis.call('HGETALL', REPORTS), {}
for i = 1, #known, 2 do
  if redis.call('ZSCORE', LEASE, known[i]) then
    found[#found + 1], found[#found + 2] = known[i], known[i + 1]
  else -- given up or deregistered by a version of meshq that knows of no reports
    redis.call('HDEL', REPORTS, known[i])
  end
end
return cmsgpack.pack(found)
