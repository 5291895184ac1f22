// SPDX-License-Identifier: Apache-2.0
#pragma once

/// Everything that a program needs. Not included: syncbn/framework.h, for frameworks.

#include "syncbn/column.h"
#include "syncbn/communicator.h"
#include "syncbn/dtype.h"
#include "syncbn/error.h"
#include "syncbn/export.h"
#include "syncbn/group.h"
#include "syncbn/isa.h"
#include "syncbn/joint_call.h"
#include "syncbn/stream.h"
#include "syncbn/sync_batch_norm.h"
#include "syncbn/tensor.h"
#include "syncbn/threads.h"
#include "syncbn/version.h"
