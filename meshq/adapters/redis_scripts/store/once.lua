-- Claim an idempotency key. Its key is a hash: `digest` of the body, `owner` while it is being handled, then `status` and, if
-- it was kept, `answer`. ARGS: digest, owner, lease. Replies {state}, {"done", answer} or {"not kept", status}.
return each(1, 3, function(k, a)
  local key, digest, owner, lease = KEYS[k + 1], ARGS[a + 1], ARGS[a + 2], ARGS[a + 3]
  local known = redis.call('HMGET', key, 'digest', 'owner', 'status', 'answer')
  if not known[1] then
    redis.call('HSET', key, 'digest', digest, 'owner', owner)
    redis.call('PEXPIRE', key, lease)
    return {'new'}
  end
  if known[1] ~= digest then
    return {'reused'}
  end
  if known[3] then
    return known[4] and {'done', known[4]} or {'not kept', tonumber(known[3])}
  end
  if known[2] ~= owner then
    return {'running'}
  end
  redis.call('PEXPIRE', key, lease)
  return {'new'}
end)
