// light, dark, or what the system says.

const NAME = "ragstone-theme";
export type Theme = "system" | "light" | "dark";
const ORDER: Theme[] = ["system", "light", "dark"];

export function theme(): Theme {
  const kept = localStorage.getItem(NAME) as Theme | null;
  return kept && ORDER.includes(kept) ? kept : "system";
}

export function applyTheme(): void {
  document.documentElement.dataset.theme = theme();
}

export function nextTheme(): Theme {
  const next = ORDER[(ORDER.indexOf(theme()) + 1) % ORDER.length]!;
  localStorage.setItem(NAME, next);
  applyTheme();
  return next;
}
