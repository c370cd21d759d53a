-- KEYS[10] where an operator's pause is kept for who registers next under this id. ARGV id, owner, how long that is kept.
-- Replies {standing, now, whether the mesh is to be told, 0, -1}.
local id = ARGV[1]
local answer = standing(id, ARGV[2])
if answer == 'ok' then
  local pause = wants(id).operator
  if holds(pause) then
    redis.call('SET', KEYS[10], cmsgpack.pack(pause), 'PX', ARGV[3])
  end
  forget(id)
  unsaid(id)
end
return {answer, NOW, pending(id), 0, -1}
