// CSV: enough of it to show a file's columns and rows before it is sent, by the same rules as the server, which reads
// the file itself: its encodings and line ends, its `sep=` line, blank lines, and cells marked as text.

const DELIMITERS = [",", ";", "\t", "|"];
const OWN = new Set(["name", "email", "phone", "reference", "mail", "mobile", "nama"]);
const HINT = /^"?sep *="? *(\\t|<?tab>?|[^"\n])?["\t,;| ]*$/i;
const TAB = /\\t|<?tab>?/i;
const NOTHING = /^[ \ufeff",;\t|]*$/;
const TEXT_CELL = /^="([^"]*)"$/;

/** Return the name by which names are compared: without case and marks. */
export const plainName = (text) => text.toLowerCase().replace(/^variables\./, "").replace(/[^\p{L}\p{N}]/gu, "");

/** Return the encoding of a file by its first bytes, as the server recognises it. */
export function encodingOf([first, second]) {
  if ((first === 0xff && second === 0xfe) || (first > 0 && second === 0)) return "utf-16le";
  return (first === 0xfe && second === 0xff) || (first === 0 && second > 0) ? "utf-16be" : "utf-8";
}

const unified = (text) => text.replace(/\r\n?/g, "\n");

/** Return where the header row begins and ends, and how the cells are separated; what precedes it are blank lines and a `sep=` line. */
export function headerOf(text) {
  let start = 0;
  let hint = "";
  for (;;) {
    const [line] = /^[^\r\n]*/.exec(text.slice(start));
    const found = HINT.exec(line.replace(/^\ufeff/, ""));
    if (!found && !NOTHING.test(line)) break;
    if (found) hint = (found[1] || "").replace(TAB, "\t");
    const next = start + line.length + (text.startsWith("\r\n", start + line.length) ? 2 : 1);
    if (next > text.length) break;
    start = next;
  }
  let quoted = false;
  let end = start;
  for (; end < text.length; end += 1) {
    if (text[end] === '"') quoted = !quoted;
    else if (!quoted && /[\r\n]/.test(text[end])) break;
  }
  const header = text.slice(start, end);
  const unquoted = header.split('"').filter((_, place) => place % 2 === 0).join("");
  const owns = (one) => header.replaceAll('"', "").split(one).filter((name) => OWN.has(plainName(name))).length;
  const marks = (one) => unquoted.split(one).length;
  const [likely] = [...DELIMITERS].sort((a, b) => owns(b) - owns(a) || marks(b) - marks(a));
  const hinted = hint && (unquoted.includes(hint) || !unquoted.includes(likely));
  return { start, end, delimiter: hinted ? hint : likely };
}

/** Return the rows of a text that are not blank; a last row that has no end is left out if the text is only a part. */
export function rowsOf(text, delimiter, isWhole = true) {
  const rows = [];
  let row = [];
  let cell = "";
  let quoted = false;
  const endCell = () => { row.push(TEXT_CELL.exec(cell.trim())?.[1] ?? cell); cell = ""; };
  const endRow = () => { endCell(); if (row.some((one) => one.trim()) && row.join() !== "\x1a") rows.push(row); row = []; };
  for (let place = 0; place < text.length; place += 1) {
    const mark = text[place];
    if (quoted) {
      if (mark !== '"') cell += mark;
      else if (text[place + 1] === '"') { cell += '"'; place += 1; } else quoted = false;
    } else if (mark === '"' && cell === "") quoted = true;
    else if (mark === delimiter) endCell();
    else if (mark === "\n") endRow();
    else if (mark !== " " || cell !== "") cell += mark;
  }
  if (isWhole && (cell || row.length)) endRow();
  return rows;
}

/** Return the columns, without those at the end that have neither a name nor a value. */
function columnsOf(names, rows) {
  const columns = names.map((one) => one.replace(/\s+/g, " ").trim());
  while (columns.length && !columns[columns.length - 1] && !rows.some((row) => row[columns.length - 1]?.trim())) columns.pop();
  return columns;
}

/** Read the columns and rows of a file from its first bytes, or all of them. */
export function readCsv(file, bytes, isWhole) {
  const encoding = encodingOf(bytes);
  const text = new TextDecoder(encoding).decode(bytes);
  const { start, delimiter } = headerOf(text);
  const [names = [], ...rows] = rowsOf(unified(text.slice(start)), delimiter, isWhole);
  return { file, kind: "csv", encoding, delimiter, columns: columnsOf(names, rows), rows, isWhole };
}

const written = (text, delimiter) => (text.includes(delimiter) || /["\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);

/** Return the text up to the end of the header row, and what follows: the file's own bytes, or text if it is not UTF-8. */
async function splitAtHeader({ file, encoding }) {
  if (encoding !== "utf-8") {
    const text = new TextDecoder(encoding).decode(await file.arrayBuffer());
    const { end } = headerOf(text);
    return [text.slice(0, end), text.slice(end)];
  }
  // a file that is not valid keeps what is wrong with it, which the server reports with its line
  const bytes = new Uint8Array(await file.slice(0, 65536).arrayBuffer());
  const mark = bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf ? 3 : 0;
  const text = Array.from(bytes.subarray(mark), (one) => String.fromCharCode(one)).join("");
  const { end } = headerOf(text);
  return [text.slice(0, end), file.slice(mark + end)];
}

/** Return the file with another header row; everything after it stays as it is, in the same lines. */
export async function withHeader(opened, names) {
  const [before, rest] = await splitAtHeader(opened);
  const header = names.map((name) => written(name, opened.delimiter)).join(opened.delimiter);
  return new Blob([unified(before).replace(/[^\n]/g, ""), header, rest], { type: "text/csv" });
}
