-- ARGV ids. Returns what snapshot.lua does, of these alone.
local fields, leases, gone = {}, {}, {}
for _, id in ipairs(ARGV) do
  local names = {id, id .. ':status', id .. ':meta', id .. ':wants'}
  for n, content in ipairs(redis.call('HMGET', INST, unpack(names))) do
    if content then
      fields[#fields + 1], fields[#fields + 2] = names[n], content
    end
  end
  for key, found in pairs({[LEASE] = leases, [GONE] = gone}) do
    local time = redis.call('ZSCORE', key, id)
    if time then
      found[#found + 1], found[#found + 2] = id, time
    end
  end
end
return cmsgpack.pack({NOW, fields, leases, gone, redis.call('HGETALL', ABOUT)})
