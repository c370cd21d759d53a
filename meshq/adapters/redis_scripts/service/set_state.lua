-- ARGV id, owner, state. Replies as by_owner does.
return by_owner(function(_, status)
  local changed = status.state ~= ARGV[3]
  status.state = ARGV[3]
  return changed
end)
