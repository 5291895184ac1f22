// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace syncbn::python {

/// Loads the library of an engine, which lies beside this module, when the engine is first used.
void load_engines_on_demand();

}  // namespace syncbn::python
