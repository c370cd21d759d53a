-- ARGV id, record, state, load, ttl. Returns the generation.
-- A generation is the time in microseconds, so that one from before a loss of all data is never given out again.
local id = ARGV[1]
local generation = TIME[1] * 1000000 + TIME[2]
local earlier = get(id, 'gen')
if earlier then
  generation = math.max(generation, tonumber(earlier) + 1)
  forget(id)
end
redis.call('HSET', INST, id, ARGV[2], id .. ':gen', int(generation), id .. ':state', ARGV[3], id .. ':load', ARGV[4])
redis.call('ZADD', LEASE, int(NOW + ARGV[5]), id)
place(id, ARGV[3] == 'ready')
return generation
