#include "apps/sporkle/allreduce_worker.h"

#include <signal.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <istream>
#include <memory>
#include <ostream>
#include <sstream>
#include <string>
#include <vector>

#include "base/seconds.h"
#include "mesh/reduction_group.h"
#include "run/sum.h"

namespace sporkle::app {
namespace {

class Worker {
 public:
  Worker(mesh::Identity identity, mesh::ReductionListener listener, int64_t count)
      : identity_(std::move(identity)),
        listener_(std::move(listener)),
        input_(static_cast<size_t>(count)),
        output_(static_cast<size_t>(count)) {}

  Result<std::string> answer(const std::string& line) {
    std::istringstream words(line);
    std::string what;
    words >> what;
    if (what == "join") return join(words);
    if (!group_) return invalid_argument("the first line must say whom to join");
    int64_t number = 0;
    if (what == "check") return check();
    if (what == "run" && words >> number && number > 0) return run(number);
    if (what == "lose" && words >> number && number >= 0) return lose(static_cast<size_t>(number));
    return invalid_argument("no such line: " + line);
  }

 private:
  Result<std::string> join(std::istringstream& words) {
    std::vector<mesh::ReductionMember> members;
    for (std::string word; words >> word;) {
      const size_t at = word.find('@');
      if (at == std::string::npos) return invalid_argument("not ID@PORT: " + word);
      SPORKLE_ASSIGN_OR_RETURN(const mesh::NodeId id, mesh::NodeId::parse(word.substr(0, at)));
      SPORKLE_ASSIGN_OR_RETURN(mesh::Address address, mesh::Address::parse("127.0.0.1:" + word.substr(at + 1)));
      if (id == identity_.id()) self_ = members.size();
      ids_.push_back(id);
      members.push_back({id, std::move(address)});
    }
    for (size_t i = 0; i < input_.size(); ++i) input_[i] = allreduce_element(static_cast<uint32_t>(self_), i);
    mesh::ReductionGroupOptions options;
    options.plaintext_for_benchmark = true;
    options.reduction.least_members = 1;  // processes of one machine do not part
    SPORKLE_ASSIGN_OR_RETURN(group_,
                             mesh::ReductionGroup::join(identity_, std::move(members), std::move(listener_), options));
    return std::string("ready");
  }

  Result<std::vector<mesh::NodeId>> reduce(const mesh::Reduction::Combine& combine) {
    return group_->all_reduce(std::as_bytes(std::span(input_)), std::as_writable_bytes(std::span(output_)), combine);
  }

  // The bits that adding in the order of the IDs gives.
  Status compare(const std::vector<mesh::NodeId>& contributors) const {
    std::vector<uint32_t> numbers;
    for (const mesh::NodeId& id : contributors)
      numbers.push_back(static_cast<uint32_t>(std::find(ids_.begin(), ids_.end(), id) - ids_.begin()));
    for (size_t i = 0; i < output_.size(); ++i) {
      float expected = allreduce_element(numbers[0], i);
      for (size_t k = 1; k < numbers.size(); ++k) expected += allreduce_element(numbers[k], i);
      if (std::memcmp(&expected, &output_[i], sizeof expected) != 0)
        return internal_error("element " + std::to_string(i) + " is " + std::to_string(output_[i]) + " instead of " +
                              std::to_string(expected));
    }
    return {};
  }
  void poison() { std::fill(output_.begin(), output_.end(), std::nanf("")); }

  Result<std::string> check() {
    poison();
    SPORKLE_ASSIGN_OR_RETURN(const std::vector<mesh::NodeId> contributors, reduce(run::sum_f32));
    if (contributors.size() != ids_.size()) return internal_error("not everybody took part");
    SPORKLE_RETURN_IF_ERROR(compare(contributors));
    return std::string("ok");
  }

  Result<std::string> run(int64_t count) {
    SPORKLE_RETURN_IF_ERROR(reduce(run::sum_f32).status());
    const double start_s = now_s();
    for (int64_t i = 0; i < count; ++i) SPORKLE_RETURN_IF_ERROR(reduce(run::sum_f32).status());
    return std::to_string((now_s() - start_s) / static_cast<double>(count));
  }

  Result<std::string> lose(size_t victim) {
    poison();
    size_t left_bytes = input_.size() * sizeof(float) / ids_.size() / 2;  // half of this process's shard
    const double start_s = now_s();
    const auto contributors = reduce([&](auto members, auto inputs, std::span<std::byte> sum) {
      if (victim == self_ && left_bytes < sum.size()) ::raise(SIGKILL);
      left_bytes -= std::min(left_bytes, sum.size());
      run::sum_f32(members, inputs, sum);
    });
    const double seconds = now_s() - start_s;
    SPORKLE_RETURN_IF_ERROR(contributors.status());
    std::vector<mesh::NodeId> survivors;
    for (size_t i = 0; i < ids_.size(); ++i)
      if (i != victim) survivors.push_back(ids_[i]);
    std::sort(survivors.begin(), survivors.end());
    if (*contributors != survivors) return internal_error("the sum is not that of the survivors");
    SPORKLE_RETURN_IF_ERROR(compare(*contributors));
    return std::to_string(seconds);
  }

  const mesh::Identity identity_;
  mesh::ReductionListener listener_;
  std::vector<float> input_, output_;
  std::vector<mesh::NodeId> ids_;  // by number
  size_t self_ = 0;
  std::unique_ptr<mesh::ReductionGroup> group_;
};

}  // namespace

Status serve_allreduce(int64_t count, std::istream& input, std::ostream& output) {
  SPORKLE_ASSIGN_OR_RETURN(mesh::Identity identity, mesh::Identity::generate());
  SPORKLE_ASSIGN_OR_RETURN(mesh::ReductionListener listener, mesh::ReductionListener::open("127.0.0.1", 0));
  output << identity.id().to_string() << " " << listener.port() << std::endl;
  Worker worker(std::move(identity), std::move(listener), count);
  for (std::string line; std::getline(input, line);) {
    const Result<std::string> answer = worker.answer(line);
    output << (answer.ok() ? *answer : "error " + answer.status().message()) << std::endl;
  }
  return {};
}

}  // namespace sporkle::app
