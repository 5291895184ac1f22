#pragma once

namespace syncbn::python {

/// Lets the library load an engine's library, which lies beside it, when the engine is first asked for.
void load_engines_on_demand();

}  // namespace syncbn::python
