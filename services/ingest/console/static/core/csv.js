// CSV: enough of it to show a file's columns and rows before it is sent. The server reads the file itself, strictly.

const DELIMITERS = [",", ";", "\t"];

/** Return where the first line ends, outside quotes; -1 if it does not end here. */
function endOfLine(text) {
  let quoted = false;
  for (let place = 0; place < text.length; place += 1) {
    if (text[place] === '"') quoted = !quoted;
    else if (!quoted && (text[place] === "\n" || text[place] === "\r")) return place;
  }
  return -1;
}

export function delimiterOf(text) {
  const end = endOfLine(text);
  const header = end < 0 ? text : text.slice(0, end);
  const found = DELIMITERS.map((one) => [header.split(one).length, one]).sort((a, b) => b[0] - a[0]);
  return found[0][1];
}

/** Return the rows of a text, at most `most`; a last row that has no end is left out if the text is only a part. */
export function rowsOf(text, delimiter, most = Infinity, isWhole = true) {
  const rows = [];
  let row = [];
  let cell = "";
  let quoted = false;
  const endCell = () => { row.push(cell); cell = ""; };
  const endRow = () => { endCell(); if (row.length > 1 || row[0] !== "") rows.push(row); row = []; };
  for (let place = 0; place < text.length && rows.length < most; place += 1) {
    const mark = text[place];
    if (quoted) {
      if (mark !== '"') cell += mark;
      else if (text[place + 1] === '"') { cell += '"'; place += 1; } else quoted = false;
    } else if (mark === '"' && cell === "") quoted = true;
    else if (mark === delimiter) endCell();
    else if (mark === "\n") endRow();
    else if (mark !== "\r") cell += mark;
  }
  if (isWhole && rows.length < most && (cell || row.length)) endRow();
  return rows;
}

const written = (text, delimiter) => (text.includes(delimiter) || /["\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);

/** Return where the first line of a file ends, in bytes: its encoding may not be the one that it was shown in. */
export async function headerBytes(file) {
  const bytes = new Uint8Array(await file.slice(0, 65536).arrayBuffer());
  const text = Array.from(bytes, (one) => String.fromCharCode(one)).join("");
  const end = endOfLine(text);
  return end < 0 ? bytes.length : end;
}

/** Return the file with another header row; everything after it stays as it is. */
export const withHeader = (opened, names) =>
  new Blob([names.map((name) => written(name, opened.delimiter)).join(opened.delimiter), opened.file.slice(opened.headerEnd)], { type: "text/csv" });
