-- For wrk: sends the requests of a file, one after the other and from the start again.
-- The file: for each request its length in eight digits and its bytes. Where a request has MARK in it, each sending of
-- it has a name there that no other sending has, of the same length. Arguments: the file, and what the names begin with.
local MARK = "@--name-of-the-request--@"
local heads, tails, count, sent, prefix = {}, {}, 0, 0, ""

function init(arguments)
   local file = assert(io.open(arguments[1], "rb"))
   prefix = arguments[2]
   while true do
      local length = file:read(8)
      if length == nil then break end
      local request = file:read(tonumber(length))
      local first, last = request:find(MARK, 1, true)
      count = count + 1
      heads[count] = first and request:sub(1, first - 1) or request
      tails[count] = first and request:sub(last + 1)
   end
   file:close()
end

function request()
   local index = sent % count + 1
   sent = sent + 1
   if tails[index] == nil then return heads[index] end
   return heads[index] .. prefix .. string.format("%016d", sent) .. tails[index]
end

function done(summary)
   local errors = summary.errors
   io.write(string.format(
      '\n{"requests": %d, "microseconds": %d, "refused": %d, "failed": %d}\n',
      summary.requests, summary.duration, errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
