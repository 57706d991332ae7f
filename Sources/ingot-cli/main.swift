import Glibc
import IngotLinearAlgebra

// Before any thread, and before OpenBLAS is loaded, which looks at it then. What the user has set stays.
if let core = LinearAlgebra.advisedCore {
  // SAFETY: no other thread runs yet that could read the environment.
  _ = unsafe setenv("OPENBLAS_CORETYPE", core, 0)
}

exit(runCommandLine())
