-- ARGV id, generation, state. Returns {standing, now, whether readers see a change}.
local id = ARGV[1]
local answer = standing(id, ARGV[2])
local changed = 0
if answer == 'ok' and get(id, 'state') ~= ARGV[3] then
  changed = 1
  redis.call('HSET', INST, id .. ':state', ARGV[3])
  place(id, ARGV[3] == 'ready' and tonumber(redis.call('ZSCORE', LEASE, id) or 0) > NOW)
end
return {answer, NOW, changed}
