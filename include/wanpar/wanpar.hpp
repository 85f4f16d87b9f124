#pragma once

// Everything needed to run or train a module on several devices. Each header can also be included by itself,
// which compiles faster.

// Ranks: groups, collectives, transports.
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
#include <wanpar/transport/tracing.hpp>

// Modules: annotations, parameters, type erasure.
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

// Strategies.
#include <wanpar/strategy/activation_checkpointing.hpp>
#include <wanpar/strategy/block_distribution.hpp>
#include <wanpar/strategy/block_pipeline.hpp>
#include <wanpar/strategy/data_parallel.hpp>
#include <wanpar/strategy/patch_parallel.hpp>
#include <wanpar/strategy/sequence_parallel.hpp>
#include <wanpar/strategy/sharded_params.hpp>

// Checkpoints and files.
#include <wanpar/checkpoint/state_dict.hpp>
#include <wanpar/files/safetensors.hpp>

// Not included here, but installed: wanpar/extend/, in the same folders, to write your own transport or
// strategy, or files that appear complete or not at all (json.hpp needs nlohmann_json); and wanpar/detail/,
// which only the headers above include.
