async (query) => {
  if (!query || !query.startsWith('?')) return [query, 'Copy link'];
  const address = location.origin + location.pathname + query;
  let copied = false;
  try {
    history.replaceState(null, '', address);
    await navigator.clipboard.writeText(address);
    copied = true;
  } catch (error) { /* a framed page or one without HTTPS may not: the link is shown all the same */ }
  return [address, copied ? 'Copied' : 'Copy it below'];
}
