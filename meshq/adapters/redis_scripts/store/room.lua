-- Take room for something that is kept, or give it back. ARGS: the amount (negative to give back), for how long, how much there
-- may be in all. Replies whether there was room.
--
-- Counted by a window: what is kept is entered under the ten minutes in which its time ends, and those that have passed are
-- taken off. So it counts as kept up to ten minutes longer than it is, and never less; what was entered by somebody who was
-- broken off before keeping it counts for its whole time. The key is a hash: <n> what ends in the n-th ten minutes since 1970,
-- `total` their sum, `first` an n before which there is none.
local PART = 600000
local present = now()
local rolled = {}

local function roll(key)
  local current = math.floor(present / PART)
  local first = tonumber(redis.call('HGET', key, 'first') or 0)
  if first < current then
    local fields = redis.call('HGETALL', key)
    for i = 1, #fields, 2 do
      local part = tonumber(fields[i])
      if part and part < current then
        redis.call('HINCRBY', key, 'total', int(-tonumber(fields[i + 1])))
        redis.call('HDEL', key, fields[i])
      end
    end
    redis.call('HSET', key, 'first', int(current))
  end
  rolled[key] = true
end

return each(1, 3, function(k, a)
  local key, amount = KEYS[k + 1], ARGS[a + 1]
  if not rolled[key] then
    roll(key)
  end
  local total = tonumber(redis.call('HGET', key, 'total') or 0)
  if amount > 0 and total + amount > ARGS[a + 3] then
    return false
  end
  redis.call('HINCRBY', key, 'total', int(amount))
  redis.call('HINCRBY', key, int(math.floor((present + ARGS[a + 2]) / PART)), int(amount))
  return true
end)
