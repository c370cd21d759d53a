-- KEYS[10] what deregister.lua keeps of this id. ARGV id, record, metadata, state, load, ttl, own pause, operator's pause (packed, or
-- ''), guard. Replies {generation, when it changes next by itself}.
-- A generation is the time in microseconds, so that one from before a loss of all data is never given out again.
local id = ARGV[1]
local generation = TIME[1] * 1000000 + TIME[2]
local earlier = read(id)
local operator
if earlier then
  generation = math.max(generation, earlier.generation + 1)
  operator = wants(id).operator
  if redis.call('HEXISTS', INST, id .. ':lost') == 1 then
    operator = unpacked(ARGV[8])
  end
else
  operator = unpacked(redis.call('GET', KEYS[10]) or ARGV[8])
end
forget(id)
redis.call('DEL', KEYS[10])

local status = {generation = generation, state = ARGV[4], writes = 0, load = ARGV[5], ttl = tonumber(ARGV[6]), out = 0}
local due = NOW + status.ttl
redis.call('HSET', INST, id, ARGV[2])
if ARGV[3] ~= '' then
  redis.call('HSET', INST, id .. ':meta', ARGV[3])
end
write(id, status)
redis.call('ZADD', LEASE, int(due), id)
local own = unpacked(ARGV[7])
local ends = want(id, {own = own.reason and own, operator = operator and operator.reason and operator})
settle(id, status)
guarded(tonumber(ARGV[9]), false)
return {generation, ends < 0 and due or math.min(due, ends)}
