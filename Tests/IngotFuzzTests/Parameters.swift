import CIngot
import IngotABI
import IngotErrors

// The options of what works on directories, as JSON. No path leads anywhere: what is accepted ends in "not found".
// SAFETY: of this file: as in Callers.swift.

func readParameters(_ bytes: [UInt8]) throws {
  var input = FuzzInput(bytes)
  let function = input.byte() % 7
  let parameters = CallerMemory(text: input.rest)
  let nowhere = CallerMemory(text: Array("./nowhere/at/all".utf8))
  let word = CallerMemory(text: Array((function == 3 ? "ema" : "compeft").utf8))
  let base = CallerMemory(text: Array("./elsewhere".utf8))
  let list = CallerMemory([UInt8](repeating: 0, count: 16))
  list.point(at: 0, to: nowhere)
  list.point(at: 8, to: nowhere)
  let text: UnsafePointer<CChar> = UnsafePointer(parameters.typed())
  let path: UnsafePointer<CChar> = UnsafePointer(nowhere.typed())
  let other: UnsafePointer<CChar> = UnsafePointer(base.typed())
  let name: UnsafePointer<CChar> = UnsafePointer(word.typed())
  let names: UnsafePointer<UnsafePointer<CChar>?> = UnsafePointer(list.typed())
  var found: UnsafeMutablePointer<CChar>?
  let status = try check { error in
    switch function {
    case 0: ingot_lora_extract(handle(context), text, other, path, path, &found, nil, error)
    case 1: ingot_lora_merge(handle(context), name, text, names, 2, path, &found, nil, error)
    case 2: ingot_lora_resize(handle(context), text, path, path, &found, nil, error)
    case 3: ingot_rolling_step(handle(context), name, text, nil, path, path, &found, nil, error)
    case 4: ingot_rolling_finish(handle(context), text, path, path, &found, nil, error)
    case 5: ingot_delta_pack(handle(context), name, text, other, names, 1, path, &found, nil, error)
    default: ingot_lora_inspect(text, nil, 0, &found, error)
    }
  }
  try require((found != nil) == (status == ingot_status(INGOT_OK)), "status \(status) and the result disagree")
  ingot_string_destroy(found)
  let isAccepted = [ingot_status(INGOT_OK), ingot_status(INGOT_E_NOT_FOUND), ingot_status(INGOT_E_BUSY)].contains(status)
  if !isAccepted { throw IngotError(.invalidArgument, "refused with status \(status)") }
}
