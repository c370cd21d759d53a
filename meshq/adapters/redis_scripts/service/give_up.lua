-- ARGV guard, ids. Gives up those whose leases have been over for as long again. Returns how many.
local count = 0
if NOW < guarded(tonumber(ARGV[1]), true) then
  return 0
end
for i = 2, #ARGV do
  local id = ARGV[i]
  local status = read(id)
  local deadline = tonumber(redis.call('ZSCORE', LEASE, id))
  if status and deadline and NOW >= deadline + status.ttl then
    status.out = deadline
    write(id, status)
    place(id, false)
    redis.call('ZREM', LEASE, id)
    redis.call('ZADD', GONE, int(NOW), id)
    count = count + 1
  end
end
return count
