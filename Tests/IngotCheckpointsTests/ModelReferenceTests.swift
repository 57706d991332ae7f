import IngotCheckpoints
import IngotErrors
import Testing

@Suite("Model references")
struct ModelReferenceTests {
  typealias Part = ModelReference.Part

  @Test(
    "the string form",
    arguments: [
      ("org/name", Part(path: "org/name"), []), ("org/name@v1", Part(path: "org/name", revision: "v1"), []),
      ("./m+./lora", Part(path: "./m"), [Part(path: "./lora")]),
      ("a@1+b/c@2", Part(path: "a", revision: "1"), [Part(path: "b/c", revision: "2")]),
      ("C:\\models\\x", Part(path: "C:\\models\\x"), []), ("m@refs/pr/1", Part(path: "m", revision: "refs/pr/1"), []),
      ("m+p#b", Part(path: "m"), [Part(path: "p", task: "b")]), ("m#1+p", Part(path: "m#1"), [Part(path: "p")]),
      ("m+a#b@r#2", Part(path: "m"), [Part(path: "a#b", revision: "r", task: "2")]),
      ("m+a+b@r+p#1+a", Part(path: "m"), [Part(path: "a"), Part(path: "b", revision: "r"), Part(path: "p", task: "1"), Part(path: "a")]),
    ] as [(String, Part, [Part])])
  func parsing(_ text: String, _ model: Part, _ adapters: [Part]) throws {
    let reference = try ModelReference(parsing: text)
    #expect(reference == ModelReference(model: model, adapters: adapters))
    #expect(reference.description == text)
  }

  @Test(
    "what does not parse",
    arguments: ["", "a++c", "a+b+", "a+b+c@", "a@b@c", "a+b@c@d", "+a", "a+", "@r", "a@", "a+@r", "a@r+", "a\0b", "a+b#", "a+#t"])
  func refused(_ text: String) throws {
    let position = SourcePosition(origin: "r.yml", line: 3, column: 5)
    let error = try #require(throws: IngotError.self) { try ModelReference(parsing: text, position: position) }
    #expect(error.status == .recipe && error.position == position)
    #expect(error.hint?.contains("path:") == true)
  }

  @Test(
    "hub names",
    arguments: [
      ("org/name", true), ("gpt2", true), ("Org-1/na_me.v2", true), ("_x/y", true), ("a/b/c", false), ("/a", false), ("./a", false),
      ("../a", false), ("~/a", false), ("a/", false), ("/", false), ("a b", false), ("a--b/c", false), ("a..b", false), ("é", false),
      ("a/.b", false), ("a\\b", false), ("a.", false),
    ])
  func hubNames(_ path: String, _ expected: Bool) {
    #expect(Part(path: path).isHubName == expected)
  }

  @Test("local paths have one candidate")
  func local() {
    let environment = { (name: String) -> String? in name == "HOME" ? "/home/me" : nil }
    let none = { (_: String) -> String? in nil }
    func paths(_ part: Part) -> [String] { part.candidates(environment: environment, readText: none).map(\.path) }
    #expect(paths(Part(path: "/data/m")) == ["/data/m"])
    #expect(paths(Part(path: "~/m")) == ["/home/me/m"])
    #expect(paths(Part(path: "./dir", revision: "v2")) == ["./dir@v2"])
    #expect(paths(Part(path: "org/name")) == ["org/name"])
  }

  @Test(
    "the cache is where the variables say",
    arguments: [
      (["HF_HUB_CACHE": "/c", "HF_HOME": "/h", "HOME": "/u"], "/c"), (["HF_HOME": "/h", "HOME": "/u"], "/h/hub"),
      (["HUGGINGFACE_HUB_CACHE": "/old/"], "/old"), (["HF_HOME": "~/hf", "HOME": "/u"], "/u/hf/hub"),
      (["XDG_CACHE_HOME": "/x", "HOME": "/u"], "/x/huggingface/hub"), (["HF_HOME": "", "HOME": "/u"], "/u/.cache/huggingface/hub"),
    ])
  func cache(_ variables: [String: String], _ hub: String) {
    let root = hub + "/models--org--name"
    let commit = String(repeating: "ab12", count: 10)
    let read = { (path: String) -> String? in path == "\(root)/refs/main" ? commit + "\n" : nil }
    let candidates = Part(path: "org/name").candidates(environment: { variables[$0] }, readText: read)
    #expect(candidates.map(\.path) == ["org/name", "\(root)/snapshots/\(commit)"])
    #expect(candidates.map(\.origin) == [.local, .hubCache])
    #expect(Part(path: "org/name").hubDirectory { variables[$0] } == root)
  }

  @Test("a revision is a ref or a commit, and cannot lead out of the cache")
  func revisions() {
    let commit = String(repeating: "0123456789", count: 4)
    let environment = { (name: String) -> String? in name == "HF_HUB_CACHE" ? "/c" : nil }
    func paths(_ revision: String, _ read: (String) -> String?) -> [String] {
      Part(path: "gpt2", revision: revision).candidates(environment: environment, readText: read).map(\.path)
    }
    #expect(paths("v1") { $0 == "/c/models--gpt2/refs/v1" ? commit : nil } == ["/c/models--gpt2/snapshots/\(commit)"])
    #expect(paths(commit) { _ in nil } == ["/c/models--gpt2/snapshots/\(commit)"])
    #expect(paths("v1") { _ in "../../../etc" } == [])
    #expect(paths("v1") { _ in "" } == [])
    #expect(paths("../../x") { _ in commit } == [])
    #expect(paths("a//b") { _ in commit } == [])
  }

  @Test("the error prints the command that fetches the model")
  func notFound() {
    let environment = { (name: String) -> String? in name == "HF_HUB_CACHE" ? "/c" : nil }
    let plain = Part(path: "org/name").notFound(environment: environment)
    #expect(plain.status == .notFound && plain.subject == "org/name")
    #expect(plain.hint == "fetch it with: hf download org/name")
    #expect(plain.message.contains("/c/models--org--name"))
    let revised = Part(path: "org/name", revision: "v1").notFound(environment: environment)
    #expect(revised.hint == "fetch it with: hf download org/name --revision v1")
    let odd = Part(path: "org/name", revision: "a b'; rm").notFound(environment: environment)
    #expect(odd.hint == "fetch it with: hf download org/name --revision 'a b'\\''; rm'")
    let path = Part(path: "/data/x").notFound(environment: environment)
    #expect(path.hint?.contains("hf download") == false)
  }
}
