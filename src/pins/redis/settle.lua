-- Settles what is stored for one pin, and returns it. The rules are in the doc of pins/redis.rs.
--
-- KEYS[1]: the pin's key. ARGV[1]: the value, or '' to remove the pin. ARGV[2]: seconds it lives. ARGV[3]: its basis,
-- 'learned', 'anew', or the home (16 hex digits) that the pin is believed to have. ARGV[4]: the writer's clock.
-- ARGV[5]: the channel on which moves are told.
local key, sent, basis = KEYS[1], ARGV[1], ARGV[3]

if sent == '' then
  redis.call('DEL', key)
  redis.call('PUBLISH', ARGV[5], key)
  return ''
end

local function read(value)
  local head, issued, refreshed, detour =
    string.match(value, '^(1:[0-9a-f]+:[0-9a-f]+:[0-9a-f]+):([0-9a-f]+):([0-9a-f]+)(.*)$')
  if head and (#value == 62 or #value == 88) then
    return {
      home = string.sub(head, 3, 18),
      issued = tonumber(issued, 16),
      refreshed = tonumber(refreshed, 16),
      rest = head .. issued .. detour,
    }
  end
end

local new = read(sent)
local stored = redis.call('GET', key)
local old = stored and read(stored)
local moved

if old then
  if old.home ~= new.home then
    if basis == 'learned' then
      if new.issued <= old.issued then return stored end
    elseif basis ~= 'anew' and basis ~= old.home then
      return stored
    end
  elseif old.rest == new.rest and old.refreshed > new.refreshed and old.refreshed <= tonumber(ARGV[4], 16) then
    return stored
  end
  moved = old.rest ~= new.rest
else
  moved = basis ~= 'learned' and basis ~= new.home
end

redis.call('SET', key, sent, 'EX', ARGV[2])
if moved then redis.call('PUBLISH', ARGV[5], key .. ' ' .. sent) end
return sent
