-- Returns msgpack of {now, the hash inst, the zsets lease and gone with their times, the hash about}: one string, because a client
-- in Python takes far longer to read thousands of small ones.
return cmsgpack.pack({
  NOW,
  redis.call('HGETALL', INST),
  redis.call('ZRANGE', LEASE, 0, -1, 'WITHSCORES'),
  redis.call('ZRANGE', GONE, 0, -1, 'WITHSCORES'),
  redis.call('HGETALL', ABOUT),
})
