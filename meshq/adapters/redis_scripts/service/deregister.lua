-- KEYS[8] where an operator's pause is kept for who registers next under this id. ARGV id, generation, how long that is kept.
-- Replies {standing, now, whether readers see a change, 0, -1}.
local id = ARGV[1]
local answer = standing(id, ARGV[2])
if answer == 'ok' then
  local pause = wants(id).operator
  if holds(pause) then
    redis.call('SET', KEYS[8], cmsgpack.pack(pause), 'PX', ARGV[3])
  end
  forget(id)
end
return {answer, NOW, answer == 'ok' and 1 or 0, 0, -1}
