(query) => {
  if (!query || !query.startsWith('?')) return query;
  const address = location.origin + location.pathname + query;
  try {
    history.replaceState(null, '', address);
    navigator.clipboard?.writeText(address).catch(() => {});
  } catch (error) { /* a framed page may not: the link is shown all the same */ }
  return address;
}
