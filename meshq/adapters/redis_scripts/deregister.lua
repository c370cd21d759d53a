-- ARGV id, generation. Returns {standing, now, whether readers see a change}.
local answer = standing(ARGV[1], ARGV[2])
if answer == 'ok' then
  forget(ARGV[1])
end
return {answer, NOW, answer == 'ok' and 1 or 0}
