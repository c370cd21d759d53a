-- ARGV ttl, how long after `down` an instance is forgotten. Whoever sees a lease run out calls this; the first one finds
-- the change. Returns {whether readers see a change, milliseconds until the next lease runs out or -1}.
local ttl, keep = tonumber(ARGV[1]), tonumber(ARGV[2])
local changed, due = 0, nil
local over = redis.call('ZRANGEBYSCORE', LEASE, '-inf', int(NOW), 'WITHSCORES')
for i = 1, #over, 2 do
  local id, deadline = over[i], tonumber(over[i + 1])
  local down = deadline + ttl
  if NOW >= down + keep then
    forget(id)
    changed = 1
  else
    local out = NOW >= down and 'down' or 'suspect'
    if get(id, 'out') ~= out then
      redis.call('HSET', INST, id .. ':out', out)
      place(id, false)
      changed = 1
    end
    local nearest = out == 'down' and down + keep or down
    due = math.min(due or nearest, nearest)
  end
end
local first = redis.call('ZRANGEBYSCORE', LEASE, '(' .. int(NOW), '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
if first[1] then
  due = math.min(due or tonumber(first[2]), tonumber(first[2]))
end
return {changed, due and due - NOW or -1}
