#ifndef THERIA_CLIENT_CLI_TABLE_H_
#define THERIA_CLIENT_CLI_TABLE_H_

#include <string>
#include <vector>

namespace theria::cli {

enum class Align { kLeft, kRight };

struct Column {
  std::string title;
  Align align = Align::kLeft;
};

// Text in columns as wide as their widest cell. A plain value.
class Table {
 public:
  explicit Table(std::vector<Column> columns);

  // REQUIRES: one cell for each column.
  void AddRow(std::vector<std::string> cells);

  // The titles, a rule, the rows; each line ends with a newline and has no trailing blanks.
  std::string ToString() const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace theria::cli

#endif  // THERIA_CLIENT_CLI_TABLE_H_
