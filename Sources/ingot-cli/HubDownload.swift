@unsafe @preconcurrency import Glibc
import IngotCheckpoints
import IngotErrors

/// Fetching a model of the Hugging Face hub with the hub's own program: this one opens no network connection.
struct HubDownload {
  let name: String
  let revision: String?

  /// What an error misses, if that is a model of the hub.
  init?(missing error: IngotError) {
    guard error.status == .notFound, let subject = error.subject, let parsed = try? ModelReference(parsing: subject, position: nil),
      parsed.model.isHubName
    else { return nil }
    name = parsed.model.path
    revision = parsed.model.revision
  }

  /// Runs `hf download` and waits for it. What it says goes to standard error. Throws `.notFound` when there is no `hf` or it fails.
  func run() throws(IngotError) {
    var words = ["hf", "download", name]
    if let revision { words += ["--revision=\(revision)"] }
    let status = try Self.spawn(words)
    guard status == 0 else {
      throw IngotError(
        .notFound, "'\(words.joined(separator: " "))' failed with \(status)", hint: "its own message stands above", subject: name)
    }
  }

  private static func spawn(_ words: [String]) throws(IngotError) -> Int32 {
    // SAFETY: the strings are copies that live until they are freed below; the file actions are initialised and destroyed here.
    var arguments: [UnsafeMutablePointer<CChar>?] = unsafe words.map { unsafe strdup($0) }
    unsafe arguments.append(nil)
    defer { unsafe arguments.forEach { unsafe free($0) } }
    var actions = unsafe posix_spawn_file_actions_t()
    unsafe posix_spawn_file_actions_init(&actions)
    defer { unsafe posix_spawn_file_actions_destroy(&actions) }
    // Standard output is for the command's own result.
    unsafe posix_spawn_file_actions_adddup2(&actions, STDERR_FILENO, STDOUT_FILENO)
    var child: pid_t = 0
    let problem = unsafe posix_spawnp(&child, "hf", &actions, nil, arguments, environ)
    guard problem == 0 else {
      throw IngotError(
        .notFound, "the program hf cannot be run: \(unsafe String(cString: strerror(problem)))",
        hint: "install it with: pip install huggingface_hub; or fetch the model yourself", subject: "hf")
    }
    var status: Int32 = 0
    while unsafe waitpid(child, &status, 0) < 0 {
      if errno != EINTR { throw IngotError(.io, "waiting for hf failed: \(unsafe String(cString: strerror(errno)))", subject: "hf") }
    }
    // As the shell gives it: the exit code, or 128 and the signal.
    return status & 0x7F == 0 ? (status >> 8) & 0xFF : 128 + (status & 0x7F)
  }
}
