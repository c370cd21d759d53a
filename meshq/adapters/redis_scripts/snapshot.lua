-- Returns msgpack of {now, the hash inst, the zset lease with its times, the hash majors}: one string, because a client in
-- Python takes far longer to read thousands of small ones.
return cmsgpack.pack({
  NOW,
  redis.call('HGETALL', INST),
  redis.call('ZRANGE', LEASE, 0, -1, 'WITHSCORES'),
  redis.call('HGETALL', MAJORS),
})
