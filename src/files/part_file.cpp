#include <wanpar/extend/files/part_file.hpp>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <system_error>
#include <thread>
#include <utility>
#include <wanpar/core/error.hpp>

namespace wanpar {
namespace fs = std::filesystem;
namespace {

/// The parts there are, where a signal's handler finds them without a lock. A place is taken, then its name
/// written, then it counts.
class PartNames {
 public:
  void add(const std::string& name) {
    for (auto& place : places_) {
      auto free = State::free;
      if (!place.state.compare_exchange_strong(free, State::taken)) continue;
      if (name.size() < place.name.size()) {
        std::memcpy(place.name.data(), name.c_str(), name.size() + 1);
        place.state = State::counts;
      }
      return;
    }
  }

  void remove(const std::string& name) {
    for (auto& place : places_)
      if (place.state == State::counts && name == place.name.data()) place.state = State::free;
  }

  void unlink_all() const {
    for (const auto& place : places_)
      if (place.state == State::counts) ::unlink(place.name.data());
  }

 private:
  enum class State { free, taken, counts };
  struct Place {
    std::atomic<State> state = State::free;
    std::array<char, 4096> name{};
  };
  std::array<Place, 256> places_;
};

PartNames part_names;

/// While files get their names, a signal waits.
std::atomic<bool> is_naming = false;
std::atomic<int> waiting_signal = 0;

void end_by(int signal) {
  if (is_naming) {
    waiting_signal = signal;
    return;
  }
  part_names.unlink_all();
  std::signal(signal, SIG_DFL);
  ::raise(signal);
}

struct Naming {
  Naming() { is_naming = true; }
  ~Naming() {
    is_naming = false;
    if (waiting_signal != 0) end_by(waiting_signal);
  }
  Naming(const Naming&) = delete;
  Naming& operator=(const Naming&) = delete;
};

fs::path folder_of(const fs::path& path) {
  return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

bool is_a_folder(const fs::path& path) {
  std::error_code no;
  return fs::is_directory(path, no);
}

/// A new file beside `path`, which nobody else has.
fs::path make_part(const fs::path& path, const fs::path& target) {
  auto name = (folder_of(target) / ".wanpar.XXXXXX.part").string();
  constexpr int kSuffix = 5;
  const int descriptor = ::mkostemps(name.data(), kSuffix, O_CLOEXEC);
  if (descriptor < 0) throw_write_error(path, std::strerror(errno));
  part_names.add(fs::absolute(name).string());
  static const auto mask = [] {
    const auto mask = ::umask(0);
    return ::umask(mask), mask;
  }();
  ::fchmod(descriptor, 0666 & ~mask);
  ::close(descriptor);
  return fs::absolute(name);
}

/// Exchanges the names of two files; false where the file system cannot.
bool exchange(const fs::path& one, const fs::path& other) {
  return ::renameat2(AT_FDCWD, one.c_str(), AT_FDCWD, other.c_str(), RENAME_EXCHANGE) == 0;
}

}  // namespace

PartFile::PartFile(fs::path path)
    : path_(std::move(path)), target_(target_of(path_)), part_(make_part(path_, target_)) {}

PartFile::PartFile(PartFile&& other) noexcept
    : path_(std::move(other.path_)),
      target_(std::move(other.target_)),
      part_(std::exchange(other.part_, {})) {}

PartFile::~PartFile() {
  if (part_.empty()) return;
  std::error_code ignored;
  fs::remove(part_, ignored);
  part_names.remove(part_.string());
}

void PartFile::flush() const {
  const int descriptor = ::open(part_.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) throw_write_error(path_, std::strerror(errno));
  const int error = ::fsync(descriptor) == 0 ? 0 : errno;
  ::close(descriptor);
  if (error != 0) throw_write_error(path_, std::strerror(error));
}

void PartFile::commit() {
  std::vector<PartFile> one;
  one.push_back(std::move(*this));
  commit_all(std::move(one));
}

void commit_all(std::vector<PartFile> files) {
  for (const auto& file : files) file.flush();
  const Naming naming;
  // What was there under a name is kept under the part's, so that it can be put back.
  std::vector<std::pair<const PartFile*, bool>> done;
  const auto undo = [&] {
    for (const auto& [file, was_there] : done) {
      if (was_there)
        exchange(file->part_, file->target_);
      else
        ::unlink(file->target_.c_str());
    }
  };
  for (const auto& file : files) {
    struct stat status {};
    const bool is_there = ::lstat(file.target_.c_str(), &status) == 0;
    const bool is_file = is_there && S_ISREG(status.st_mode);
    if (is_file && exchange(file.part_, file.target_)) {
      done.emplace_back(&file, true);
    } else if ((!is_there || is_file) && ::rename(file.part_.c_str(), file.target_.c_str()) == 0) {
      done.emplace_back(&file, false);
    } else {
      const std::string reason = is_there && !is_file ? "it is no file any more" : std::strerror(errno);
      undo();
      throw_write_error(file.path(), reason.c_str());
    }
  }
}

void end_without_parts(int status) {
  while (is_naming) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  part_names.unlink_all();
  std::_Exit(status);
}

void remove_parts_on_signals() {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    struct sigaction action {};
    if (::sigaction(signal, nullptr, &action) == 0 && action.sa_handler == SIG_IGN) continue;
    action = {};
    action.sa_handler = end_by;
    ::sigaction(signal, &action, nullptr);
  }
}

fs::path target_of(const fs::path& path) {
  std::error_code error;
  const auto found = fs::weakly_canonical(path, error);  // a link that leads nowhere is followed by hand
  auto target = error ? path : found;
  for (int links = 0; links < 40 && fs::is_symlink(target, error); ++links) {
    const auto next = fs::read_symlink(target, error);
    if (error) break;
    target = next.is_absolute() ? next : folder_of(target) / next;
  }
  return fs::absolute(target, error).lexically_normal();
}

void check_writable(const fs::path& path, uintmax_t expected_bytes) {
  const auto refuse = [&](const std::string& why) {
    throw Error(fmt::format("{} cannot be written: {}", path.string(), why));
  };
  const auto target = target_of(path);
  const auto folder = folder_of(target);
  if (!path.has_filename() || is_a_folder(target)) refuse("it is a folder; name a file in it");
  if (!is_a_folder(folder))
    refuse(fmt::format("there is no folder {}; create it first", folder_of(path).string()));
  struct stat status {};
  if (::stat(target.c_str(), &status) == 0) {
    if (!S_ISREG(status.st_mode)) refuse("it is a device, a pipe or a socket; name a file");
    if (::access(target.c_str(), W_OK) != 0) refuse(std::strerror(errno));
  } else if (errno != ENOENT) {
    refuse(std::strerror(errno));  // a name that is too long, among others
  }

  const PartFile trial(path);
  std::error_code unknown;
  const auto space = fs::space(folder, unknown);
  if (!unknown && space.available < expected_bytes)
    refuse(fmt::format("about {} bytes are needed, but only {} are free there", expected_bytes,
                       space.available));
}

void throw_write_error(const fs::path& path, const char* reason) {
  std::error_code unknown;
  const auto space = fs::space(folder_of(path), unknown);
  const auto room = unknown ? std::string() : fmt::format("; {} bytes are free there", space.available);
  throw Error(fmt::format("{} cannot be written: {}{}", path.string(), reason, room));
}

}  // namespace wanpar
