-- Put before the text of scripts that change rosters: writes lifecycle events to the feed (services/shared/feed).
--
-- `tell(stream, most, counter, kind, channel, member)` appends one entry to `stream`, which keeps about `most`. `counter`
-- is the key of the number of the channel or user: the present time in ms, or one more than the last number if that is
-- more. So numbers grow also where Redis has lost the last ones. It goes 30 days after its last use. `kind`: an EventType.
-- `channel`: '' for the connections of a user. `member`: serialized ClientInfo, or ''. Returns the number.
local function tell(stream, most, counter, kind, channel, member)
  local time = redis.call('TIME')
  local now, number = time[1] * 1000 + math.floor(time[2] / 1000), redis.call('INCR', counter)
  if number < now then
    number = now
    redis.call('SET', counter, string.format('%d', now), 'EX', 2592000)
  else
    redis.call('EXPIRE', counter, 2592000)
  end
  number = string.format('%d', number)
  redis.call('XADD', stream, 'MAXLEN', '~', most, '*', 'k', kind, 'n', number, 'c', channel, 'm', member)
  return number
end
