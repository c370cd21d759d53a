-- ARGV id, owner, load, how often the owner knows it to have been written to, guard, report ('' for none). Replies as by_owner does.
local known = tonumber(ARGV[4])
local function renew(id, status)
  local deadline = tonumber(redis.call('ZSCORE', LEASE, id) or 0)
  local back = status.out > 0 or deadline <= NOW
  redis.call('ZADD', LEASE, int(NOW + status.ttl), id)
  status.load, status.out = ARGV[3], 0
  redis.call('ZREM', GONE, id)
  write(id, status)
  if ARGV[6] ~= '' then
    redis.call('HSET', REPORTS, id, int(NOW) .. ' ' .. ARGV[6])
  end
  guarded(tonumber(ARGV[5]), false)
  -- Not again within QUIET_AGAIN (core/eviction.py), or one that keeps falling silent and coming back would stop everything.
  if back and NOW >= (tonumber(redis.call('HGET', ABOUT, 'returned')) or 0) + 4 * tonumber(ARGV[5]) then
    redis.call('HSET', ABOUT, 'returned', int(NOW))
  end
  return back
end

local answer, status = standing(ARGV[1], ARGV[2])
if status and answer == 'ok' and status.writes < known then
  redis.call('HSET', INST, ARGV[1] .. ':lost', 1)
  return {'unknown', NOW, 0, 0, -1}
end
return by_owner(renew)
