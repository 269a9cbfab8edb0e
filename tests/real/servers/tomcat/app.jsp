<%@ page session="false" contentType="application/json" trimDirectiveWhitespaces="true" %>
<%!
    /** One life of this server. */
    private static final String INSTANCE = java.util.UUID.randomUUID().toString();

    private static String quoted(Object value) {
        return value == null ? "null" : "\"" + value + "\"";
    }
%>
<%
    // POST /login?user= begins a session, GET /whoami counts in it, GET /peek only looks, GET /health is for probes.
    String path = request.getServletPath();
    response.setHeader("X-Instance", INSTANCE);
    HttpSession kept = request.getSession(path.equals("/login"));
    if (path.equals("/login")) {
        kept.setAttribute("user", request.getParameter("user"));
        kept.setAttribute("visits", 0L);
    } else if (path.equals("/whoami") && kept != null) {
        kept.setAttribute("visits", (Long) kept.getAttribute("visits") + 1);
    }
    StringBuilder json = new StringBuilder("{\"served_by\":" + quoted(System.getProperty("app.name")));
    json.append(",\"user\":").append(kept == null ? "null" : quoted(kept.getAttribute("user")));
    json.append(",\"visits\":").append(kept == null ? "null" : kept.getAttribute("visits"));
    json.append(",\"asked_for\":").append(quoted(request.getRequestedSessionId()));
    json.append(",\"link\":").append(quoted(response.encodeURL("/whoami")));
    json.append(",\"rehomed_from\":").append(quoted(request.getHeader("Stickpin-Rehomed-From")));
    json.append(",\"rehome_reason\":").append(quoted(request.getHeader("Stickpin-Rehome-Reason")));
    json.append(",\"session_lost\":").append(quoted(request.getHeader("Stickpin-Session-Lost")));
    json.append(",\"heir\":").append(quoted(request.getHeader("Stickpin-Heir")));
    json.append(",\"pin_seen\":").append(String.valueOf(request.getHeader("Cookie")).contains("stickpin="));
    out.print(json.append("}"));
%>
