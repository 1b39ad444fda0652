// Where the reader is, kept in the address: a reload, or a link, leads there again.

import { useEffect, useState } from "preact/hooks";

export type View = "chat" | "documents";

export interface Place {
  view: View;
  collection: string;
}

export function read(): Place {
  const [view, query] = location.hash.replace(/^#\/?/, "").split("?");
  const collection = new URLSearchParams(query).get("collection") ?? "default";
  return { view: view === "documents" ? "documents" : "chat", collection };
}

export function go(to: Partial<Place>): void {
  const place = { ...read(), ...to };
  location.hash = `/${place.view}?${new URLSearchParams({ collection: place.collection })}`;
}

export function usePlace(): Place {
  const [place, set] = useState(read);
  useEffect(() => {
    const changed = () => set(read());
    addEventListener("hashchange", changed);
    return () => removeEventListener("hashchange", changed);
  }, []);
  return place;
}
