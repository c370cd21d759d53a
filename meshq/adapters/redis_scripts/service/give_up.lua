-- ARGV guard, ids. Gives up those whose leases have been over for as long again. Returns the present time.
if NOW < guarded(tonumber(ARGV[1]), true) then
  return NOW
end
for i = 2, #ARGV do
  local id = ARGV[i]
  local status = read(id)
  local deadline = tonumber(redis.call('ZSCORE', LEASE, id))
  if status and deadline and NOW >= deadline + status.ttl then
    status.out = deadline
    write(id, status)
    place(id, false)
    unsaid(id)
    redis.call('ZREM', LEASE, id)
    redis.call('ZADD', GONE, int(NOW), id)
    redis.call('HDEL', REPORTS, id)
  end
end
return NOW
