-- ARGV id, generation, load, ttl. Returns {standing, now, whether readers see a change}.
local id = ARGV[1]
local answer = standing(id, ARGV[2])
local changed = 0
if answer == 'ok' then
  local deadline = redis.call('ZSCORE', LEASE, id)
  redis.call('ZADD', LEASE, int(NOW + ARGV[4]), id)
  redis.call('HSET', INST, id .. ':load', ARGV[3])
  if not deadline or tonumber(deadline) <= NOW then
    changed = 1
    redis.call('HDEL', INST, id .. ':out')
    place(id, get(id, 'state') == 'ready')
  end
end
return {answer, NOW, changed}
