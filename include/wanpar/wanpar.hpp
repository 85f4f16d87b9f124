#pragma once

// All that a program wants which runs or trains a module on several devices. Each header also stands alone,
// and costs less by itself.

// Ranks: who talks to whom.
#include <wanpar/core/agreement.hpp>
#include <wanpar/core/communicator.hpp>
#include <wanpar/core/error.hpp>
#include <wanpar/core/mesh.hpp>
#include <wanpar/core/pending.hpp>
#include <wanpar/core/pipeline_schedule.hpp>
#include <wanpar/core/reduce_op.hpp>
#include <wanpar/launch/connect.hpp>
#include <wanpar/transport/c10d.hpp>
#include <wanpar/transport/checked.hpp>
#include <wanpar/transport/local.hpp>
#include <wanpar/transport/recording.hpp>

// Modules: what is said of them, and done with them.
#include <wanpar/module/annotations.hpp>
#include <wanpar/module/block_ranges.hpp>
#include <wanpar/module/by_blocks.hpp>
#include <wanpar/module/clip_grad_norm.hpp>
#include <wanpar/module/deferred.hpp>
#include <wanpar/module/master_weights.hpp>
#include <wanpar/module/model.hpp>
#include <wanpar/module/no_sync.hpp>
#include <wanpar/module/own_stage.hpp>
#include <wanpar/module/parameters.hpp>
#include <wanpar/module/placement.hpp>
#include <wanpar/module/value.hpp>
#include <wanpar/module/value_name.hpp>
#include <wanpar/module/values.hpp>
#include <wanpar/module/verify.hpp>

// Strategies: what ranks share.
#include <wanpar/strategy/activation_checkpointing.hpp>
#include <wanpar/strategy/block_distribution.hpp>
#include <wanpar/strategy/block_pipeline.hpp>
#include <wanpar/strategy/data_parallel.hpp>
#include <wanpar/strategy/patch_parallel.hpp>
#include <wanpar/strategy/sequence_parallel.hpp>
#include <wanpar/strategy/sharded_params.hpp>

// What stays on disk.
#include <wanpar/checkpoint/state_dict.hpp>
#include <wanpar/files/safetensors.hpp>

// Not here, but installed, for those who write a transport or a strategy of their own:
//
//     wanpar/core/call.hpp              what a rank is about to do, as a transport is told it
//     wanpar/core/transport.hpp         the interface of a transport
//     wanpar/module/attention.hpp       an attention, and attention over some of the keys
//     wanpar/module/call.hpp            arguments and results of any shape as a flat list
//     wanpar/module/forward_scope.hpp   the interface of a strategy
//     wanpar/module/interceptor.hpp     the operators that a module calls
//     wanpar/module/invoke.hpp          a module of any kind, called
//     wanpar/module/module_kinds.hpp    what a module may be
//     wanpar/module/wrapped.hpp         the shell of every strategy
//
// and for those who write files that appear whole or not at all (json.hpp wants nlohmann's library):
//
//     wanpar/files/json.hpp
//     wanpar/files/mapped_file.hpp
//     wanpar/files/new_file.hpp
//     wanpar/files/part_file.hpp
