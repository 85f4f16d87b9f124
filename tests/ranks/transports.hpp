#pragma once
#include <wanpar/core/communicator.hpp>

#include <functional>
#include <string>
#include <vector>

/// A claim about a group, made on each of its ranks.
using Claim = std::function<void(wanpar::Communicator)>;
/// Makes a claim on every rank of groups of several sizes.
using Runner = std::function<void(const Claim&)>;

struct TransportCase {
  std::string name;
  Runner run;
};

/// Every transport that the suite of communicators is run for, one entry each.
const std::vector<TransportCase>& transports();

/// Makes the claim of every transport.
void on_transports(const Claim& claim);

enum class Splits { yes, no };
/// On groups of threads, joined by c10d backends that the user makes: the first one, and, where groups are to
/// be split, those of the parts.
Runner user_backends(Splits splits);
