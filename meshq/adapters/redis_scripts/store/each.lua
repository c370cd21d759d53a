-- Common to every script of the store: one call does the same to many items, because a round trip costs far more than an item.
-- KEYS holds the keys of each item, one item after the other, and ARGS likewise their arguments, which come as one msgpack
-- array: a client in Python writes that far faster than so many strings. `one` gets how many keys and arguments come before
-- its own; its replies go back as one msgpack array. The keys of a call share one hash slot. Times are milliseconds, and this
-- server's.

local ARGS = cmsgpack.unpack(ARGV[1])

local function each(keys, args, one)
  local replies = {}
  for i = 0, #KEYS / keys - 1 do
    replies[i + 1] = one(i * keys, i * args)
  end
  return cmsgpack.pack(replies)
end

local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- tostring() would round a time.
local function int(number)
  return string.format('%.0f', number)
end
