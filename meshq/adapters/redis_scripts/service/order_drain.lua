-- ARGV id, ''. Replies as by_owner does.
return by_owner(function(id)
  local wanted = wants(id)
  local changed = not wanted.drain
  wanted.drain = true
  want(id, wanted)
  return changed
end)
