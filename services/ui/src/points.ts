// The service counts characters as Unicode code points, JavaScript strings hold UTF-16 units.

/** The UTF-16 index of a code point offset. */
export function unitAt(text: string, offset: number): number {
  let units = 0;
  for (let points = 0; points < offset && units < text.length; points++) {
    units += text.codePointAt(units)! > 0xffff ? 2 : 1;
  }
  return units;
}

/** `text[start:end]` as the service means it. */
export function slice(text: string, start: number, end: number): string {
  const from = unitAt(text, start);
  return text.slice(from, from + unitAt(text.slice(from), end - start));
}
