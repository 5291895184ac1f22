// SPDX-License-Identifier: Apache-2.0
#pragma once

/// Marks what the core exports for engines, which may be libraries of their own: the seam for engines.
/// tests/package/symbols.txt lists it. A program must not use it.
#define SYNCBN_ENGINE_API __attribute__((visibility("default")))
