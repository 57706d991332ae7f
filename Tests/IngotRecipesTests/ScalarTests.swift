import IngotRecipes
import Testing

/// What PyYAML 6.0.3 `safe_load` makes of `v: TEXT`, written down from a run of it. Dates, which it makes objects of, stay texts here.
private let resolved: [(String, ScalarValue)] = [
  ("yes", .boolean(true)),
  ("Yes", .boolean(true)),
  ("YES", .boolean(true)),
  ("no", .boolean(false)),
  ("No", .boolean(false)),
  ("NO", .boolean(false)),
  ("true", .boolean(true)),
  ("True", .boolean(true)),
  ("TRUE", .boolean(true)),
  ("false", .boolean(false)),
  ("False", .boolean(false)),
  ("FALSE", .boolean(false)),
  ("on", .boolean(true)),
  ("On", .boolean(true)),
  ("ON", .boolean(true)),
  ("off", .boolean(false)),
  ("Off", .boolean(false)),
  ("OFF", .boolean(false)),
  ("y", .string("y")),
  ("n", .string("n")),
  ("Y", .string("Y")),
  ("N", .string("N")),
  ("yEs", .string("yEs")),
  ("tRue", .string("tRue")),
  ("null", .null),
  ("Null", .null),
  ("NULL", .null),
  ("~", .null),
  ("nUll", .string("nUll")),
  ("0", .integer(0)),
  ("1", .integer(1)),
  ("-1", .integer(-1)),
  ("+1", .integer(1)),
  ("12345", .integer(12345)),
  ("1_000", .integer(1000)),
  ("1_", .integer(1)),
  ("_1", .string("_1")),
  ("1__0", .integer(10)),
  ("-1_000", .integer(-1000)),
  ("010", .integer(8)),
  ("-010", .integer(-8)),
  ("+017", .integer(15)),
  ("018", .string("018")),
  ("08", .string("08")),
  ("09", .string("09")),
  ("00", .integer(0)),
  ("0_", .integer(0)),
  ("0_7", .integer(7)),
  ("0x10", .integer(16)),
  ("0xFF", .integer(255)),
  ("-0xff", .integer(-255)),
  ("0x_1", .integer(1)),
  ("0XFF", .string("0XFF")),
  ("0b101", .integer(5)),
  ("0b1_0", .integer(2)),
  ("-0b11", .integer(-3)),
  ("0b2", .string("0b2")),
  ("0o17", .string("0o17")),
  ("9223372036854775807", .integer(9_223_372_036_854_775_807)),
  ("-9223372036854775808", .integer(Int.min)),
  ("9223372036854775808", .float(9.223372036854776e+18)),
  ("-9223372036854775809", .float(-9.223372036854776e+18)),
  ("0xFFFFFFFFFFFFFFFF", .float(1.8446744073709552e+19)),
  ("1e3", .string("1e3")),
  ("1E3", .string("1E3")),
  ("1e-5", .string("1e-5")),
  ("1e+5", .string("1e+5")),
  ("1.0e5", .string("1.0e5")),
  ("1.0e+5", .float(100000.0)),
  ("1.5E-3", .float(0.0015)),
  ("1.0e-5", .float(1e-05)),
  ("1.e+2", .float(100.0)),
  ("1.", .float(1.0)),
  ("-1.", .float(-1.0)),
  ("+1.5", .float(1.5)),
  (".5", .float(0.5)),
  ("-.5", .string("-.5")),
  ("+.5", .string("+.5")),
  (".5e+1", .float(5.0)),
  (".5e1", .string(".5e1")),
  ("._5", .string("._5")),
  (".5_0", .float(0.5)),
  ("1_0.5", .float(10.5)),
  ("1_0._5", .float(10.5)),
  ("1.5_", .float(1.5)),
  ("1.5_e+1", .float(15.0)),
  (".", .string(".")),
  ("-.", .string("-.")),
  ("0.", .float(0.0)),
  ("0.5", .float(0.5)),
  ("00.5", .float(0.5)),
  ("01.5", .float(1.5)),
  ("-0.0", .float(-0.0)),
  ("0.1e-400", .float(0.0)),
  ("1.0e+400", .float(.infinity)),
  ("1.7976931348623157e+308", .float(1.7976931348623157e+308)),
  ("5.0e-324", .float(.leastNonzeroMagnitude)),
  ("123456789012345678.0", .float(1.2345678901234568e+17)),
  (".inf", .float(.infinity)),
  ("-.inf", .float(-.infinity)),
  ("+.inf", .float(.infinity)),
  (".Inf", .float(.infinity)),
  (".INF", .float(.infinity)),
  (".iNf", .string(".iNf")),
  ("inf", .string("inf")),
  ("-inf", .string("-inf")),
  (".nan", .float(.nan)),
  (".NaN", .float(.nan)),
  (".NAN", .float(.nan)),
  (".Nan", .string(".Nan")),
  ("-.nan", .string("-.nan")),
  ("nan", .string("nan")),
  ("1:30", .integer(90)),
  ("-1:30", .integer(-90)),
  ("+1:30", .integer(90)),
  ("1:60", .string("1:60")),
  ("1:5", .integer(65)),
  ("01:30", .string("01:30")),
  ("0:30", .string("0:30")),
  ("190:20:30", .integer(685230)),
  ("1:2:3:4", .integer(223384)),
  ("1_0:30", .integer(630)),
  ("1:30.5", .float(90.5)),
  ("-1:30.5", .float(-90.5)),
  ("0:30.", .float(30.0)),
  ("1:30.", .float(90.0)),
  ("1:60.5", .string("1:60.5")),
  ("1:30.5e+1", .string("1:30.5e+1")),
  ("20:59:59.999", .float(75599.999)),
  ("9:99", .string("9:99")),
  ("1:_3", .string("1:_3")),
  ("2001-12-14", .string("2001-12-14")),
  ("2001-12-14t21:59:43.10-05:00", .string("2001-12-14t21:59:43.10-05:00")),
  ("12:30:45", .integer(45045)),
  ("0.5.5", .string("0.5.5")),
  ("1-2", .string("1-2")),
  ("1,000", .string("1,000")),
  ("1+1", .string("1+1")),
  ("abc", .string("abc")),
  ("-abc", .string("-abc")),
  ("3d", .string("3d")),
  ("0x", .string("0x")),
  ("0b", .string("0b")),
  ("0xg", .string("0xg")),
  ("1e", .string("1e")),
  ("1e+", .string("1e+")),
  ("e5", .string("e5")),
  ("+1e3", .string("+1e3")),
  ("--1", .string("--1")),
  ("+-1", .string("+-1")),
  ("-+1", .string("-+1")),
  ("..", .string("..")),
  ("...", .string("...")),
  ("a=b", .string("a=b")),
  ("a:b", .string("a:b")),
  ("1.2.3", .string("1.2.3")),
  ("infinity", .string("infinity")),
  ("Infinity", .string("Infinity")),
  ("NaN", .string("NaN")),
  ("torch.bfloat16", .string("torch.bfloat16")),
  ("./model", .string("./model")),
  ("C:\\x", .string("C:\\x")),
  ("1a", .string("1a")),
  ("a1", .string("a1")),
  ("0.1", .float(0.1)),
  ("0.30000000000000004", .float(0.30000000000000004)),
  ("1e5.0", .string("1e5.0")),
  ("--", .string("--")),
  ("---a", .string("---a")),
]

private func same(_ a: ScalarValue, _ b: ScalarValue) -> Bool {
  if case .float(let x) = a, case .float(let y) = b { return x.bitPattern == y.bitPattern || (x.isNaN && y.isNaN) }
  return a == b
}

@Suite struct ScalarTests {
  @Test(arguments: resolved) func plainTextsResolveAsInPyYAML(_ text: String, _ expected: ScalarValue) throws {
    let direct = ScalarValue.resolving(plain: text)
    #expect(same(direct, expected), "\(text) gave \(direct)")
    let node = try Node.load(Array("v: \(text)\n".utf8), origin: "t")
    let scalar = try #require(node.mapping?["v"]?.value.scalar)
    #expect(same(scalar.value, expected), "\(text) loaded as \(scalar.value)")
    #expect(scalar.style == .plain)
  }

  @Test(arguments: ["yes", "1", "1.5", "~", "0x10", ""]) func quotedTextsStayTexts(_ text: String) throws {
    for quote in ["'", "\""] {
      let node = try Node.load(Array("[\(quote)\(text)\(quote)]".utf8), origin: "t")
      #expect(node.sequence?.first?.scalar == Node.Scalar(text: text, style: .quoted, value: .string(text)))
    }
  }

  /// What Python's `float` makes of ASCII texts; nil where it refuses.
  @Test(
    arguments: [
      ("0.5", 0.5), ("1e-5", 1e-5), ("1e5", 1e5), (" 2 ", 2), ("1_000", 1000), ("1_0.2_5", 10.25), ("-.5", -0.5), ("+3.", 3), ("08", 8),
      ("1E+2", 100), ("inf", .infinity), ("-Infinity", -.infinity), ("", nil), ("abc", nil), ("1__0", nil), ("_1", nil), ("1_", nil),
      ("1e", nil),
      (".", nil), ("0x10", nil), ("1 2", nil), ("1,5", nil), ("0x1p3", nil), ("1_.5", nil), ("--1", nil),
    ] as [(String, Double?)]) func textsThatReadAsNumbers(_ text: String, _ expected: Double?)
  {
    #expect(ScalarValue.number(inText: text) == expected)
  }

  @Test func aVeryLongNumberIsAText() {
    let digits = String(repeating: "9", count: 100_000)
    #expect(ScalarValue.resolving(plain: digits) == .string(digits))
    #expect(ScalarValue.number(inText: digits) == nil)
  }
}
